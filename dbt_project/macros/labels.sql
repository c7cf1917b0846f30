{# Texts as an SQL list of strings. #}
{% macro in_quotes(texts) -%}
{%- for text in texts -%} '{{ text | replace("'", "''") }}'{{ ', ' if not loop.last }} {%- endfor -%}
{%- endmacro %}


{# Label parameter of a surface, from `labels:` of its YAML. #}
{% macro label_parameter(surface, name) -%}
{%- set parameters = var('labels')[surface] or {} -%}
{%- if execute and name not in parameters -%}
    {{ exceptions.raise_compiler_error('surface ' ~ surface ~ ' has no label parameter ' ~ name) }}
{%- endif -%}
{{ parameters[name] }}
{%- endmacro %}


{# Days after its own on which what follows an exposure of `surface` (SQL) counts for it: those of the surface's YAML. #}
{% macro label_window_days(surface) -%}
{%- if var('label_window_days') -%}
case {{ surface }}
    {%- for name, days in var('label_window_days').items() %} when '{{ name }}' then {{ days }}{% endfor %} else 1 end
{%- else -%}
1
{%- endif -%}
{%- endmacro %}


{# The longest of them. #}
{% macro longest_label_window() -%} {{ ([1] + var('label_window_days').values() | list) | max }} {%- endmacro %}


{# What listens say of an exposure, in the order of `label_events`; the same as ml.surfaces.spec.PLAYED_OUTCOMES. #}
{% macro played_outcomes(part) -%}
{{ return([
    part ~ '.played_s', part ~ '.completed', part ~ '.skipped', part ~ '.stopped', part ~ '.liked', part ~ '.disliked'
]) }}
{%- endmacro %}


{#
  Rows of `events`, which name an exposure, with the exposure within whose label window they came. An id may be used
  again: an event belongs to the last exposure of that id before it, or it would count for two.
#}
{% macro belonging(events, key, columns, same_user=false) -%}
select
    exposures.day,
    exposures.surface,
    exposures.exposure_id,
    {%- for column in columns %}
    events.{{ column }}{{ ',' if not loop.last }}
    {%- endfor %}
from {{ ref('stg_exposures') }} as exposures
inner join {{ ref(events) }} as events
    on exposures.exposure_id = events.exposure_id{{ ' and exposures.user_id = events.user_id' if same_user }}
where
    {{ built_days('exposures.day', before=longest_label_window(), after=longest_label_window()) }}
    and {{ built_days('events.day', before=longest_label_window(), after=longest_label_window()) }}
    and events.day between exposures.day and exposures.day + {{ label_window_days('exposures.surface') }}
qualify row_number() over (
    partition by {% for column in key %}events.{{ column }}{{ ', ' if not loop.last }}{% endfor %}
    order by exposures.ts <= events.ts desc, exposures.day desc
) = 1
{%- endmacro %}


{#
  Refuse a label that counts an outcome which nobody has seen: a wrong name would make every label 0. Names that the
  surfaces declare (`outcomes:`) may be yet to come; so may any while nothing has landed.
#}
{% macro require_outcomes(relation) -%}
{%- if execute and flags.WHICH in ('build', 'run') -%}
    {%- set wanted = [] -%}
    {%- for surface, label, _, name in var('label_rules') if name not in var('outcomes') and '.' not in name -%}
        {%- do wanted.append((surface, label, name)) -%}
    {%- endfor -%}
    {%- if wanted -%}
        {%- set landed = run_query(
            'select distinct name from ' ~ relation ~ ' where day >= ' ~ from_day() ~ ' - 60 order by 1'
        ).columns[0].values() | list -%}
        {%- for surface, label, name in wanted if landed and name not in landed -%}
            {%- set near = run_query(
                "select name from (select distinct name from " ~ relation ~ ") order by jaro_winkler_similarity(name, "
                ~ in_quotes([name]) ~ ") desc, name limit 1"
            ).columns[0].values() | first -%}
            {{ exceptions.raise_compiler_error(
                "surface " ~ surface ~ ": labels." ~ label ~ " counts the outcome '" ~ name ~ "', which has not landed since "
                ~ "60 days before " ~ var('from_day') ~ "; did you mean '" ~ near ~ "'? Landed were " ~ landed | join(', ')
                ~ ". One that is yet to come stands in outcomes: of the surface's YAML"
            ) }}
        {%- endfor -%}
    {%- endif -%}
{%- endif -%}
{%- endmacro %}
