{# What sqlfluff renders in place of dbt's variables and environment; dbt does not read this file. #}
{% macro var(name) -%}
{{ return({
    'from_day': '2026-01-01',
    'to_day': '2026-01-01',
    'first_day': '2026-01-01',
    'labels': {'some_surface': {'trail_max_hours': 1}},
    'label_window_days': {'some_surface': 2},
    'click_outcomes': ['bought'],
    'label_rules': [['shop', 'bought', 'any', 'bought'], ['shop', 'a', 'sum', 'listen.played_s'], ['shop', 'b', 'sum', 'session.played_s']],
    'outcomes': ['bought'],
}.get(name, 1)) }}
{%- endmacro %}

{% macro label_parameter(surface, name) -%}
1
{%- endmacro %}

{% macro env_var(name, default='') -%}
{{ return('[
    {
        "name": "feat_item",
        "same_entity": "exposures.item_id = feat_item.item_id",
        "columns": [{"value": "feat_item.creator_id", "alias": "creator_id"}]
    },
    {
        "name": "feat_creator",
        "same_entity": "feat_item.creator_id = feat_creator.creator_id",
        "columns": [{"value": "coalesce(feat_creator.plays, 0)", "alias": "creator_plays"}]
    }
]') }}
{%- endmacro %}
