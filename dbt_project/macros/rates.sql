{# Sum of an integer column. #}
{% macro summed(column) -%} sum({{ column }})::bigint as {{ column }} {%- endmacro %}


{# What is counted of a day, in the order of the columns; `daily_events` says what each is. #}
{% macro counts() -%}
{{ return(['impressions', 'clicks', 'plays', 'skips', 'completions', 'played_ms']) }}
{%- endmacro %}


{# Sum of every count. #}
{% macro summed_counts() -%}
{%- for count in counts() -%}
{{ summed(count) }}{{ ',\n    ' if not loop.last }}
{%- endfor -%}
{%- endmacro %}


{# Sum of every count of a joined table, 0 where it has no row. #}
{% macro summed_counts_of(table) -%}
{%- for count in counts() -%}
coalesce(sum({{ table }}.{{ count }}), 0)::bigint as {{ count }}{{ ',\n    ' if not loop.last }}
{%- endfor -%}
{%- endmacro %}


{# Sum of an integer column, decayed by the age of the day; fixed-point integer weights (1e6 = 1), so that the sum is exact. #}
{% macro decayed_sum(column) -%}
sum({{ column }} * round(1e6 * pow(0.5, (day - active_day - 1) / {{ var('decay_half_life_days') }}.0))::bigint)::bigint
as decayed_{{ column }}
{%- endmacro %}


{# smoothed_rate of two counts of `summed` towards the same counts of `overall`. #}
{% macro rate(hits, tries, weight) -%}
{{ smoothed_rate('summed.' ~ hits, 'summed.' ~ tries, 'overall.' ~ hits, 'overall.' ~ tries, weight) }}
{%- endmacro %}


{# The same of two decayed counts. #}
{% macro decayed_rate(hits, tries, weight) -%}
{{ smoothed_rate(
    'summed.decayed_' ~ hits ~ ' / 1e6', 'summed.decayed_' ~ tries ~ ' / 1e6', 'overall.' ~ hits, 'overall.' ~ tries, weight
) }}
{%- endmacro %}


{# hits / tries of one row, drawn towards the overall rate of the same window with `weight` tries; null without any. #}
{% macro smoothed_rate(hits, tries, overall_hits, overall_tries, weight) -%}
(coalesce({{ hits }}, 0) + {{ weight }}.0 * {{ overall_hits }} / nullif({{ overall_tries }}, 0))
/ (coalesce({{ tries }}, 0) + {{ weight }}.0)
{%- endmacro %}
