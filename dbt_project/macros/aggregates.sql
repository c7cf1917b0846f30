{#
  Counts per day and `keys` (of user_id, item_id), all integers, from the events of that day alone. Only what was known
  when the day ended: a click counts if its listen started on the exposure's day, a play if it ended before the day did.
#}
{% macro daily_counts(keys) -%}
with exposures as (
    select day, exposure_id, user_id, item_id from {{ ref('stg_exposures') }} where {{ built_days() }}
),

listens as (
    select * from {{ ref('stg_listens') }} where {{ built_days() }}
),

clicked as (
    select distinct day, exposure_id from listens where exposure_id is not null
),

events as (
    select
        exposures.day,
        exposures.user_id,
        exposures.item_id,
        1 as impressions,
        (clicked.exposure_id is not null)::integer as clicks,
        0 as plays,
        0 as skips,
        0 as completions,
        0 as played_ms
    from exposures
    left join clicked on exposures.day = clicked.day and exposures.exposure_id = clicked.exposure_id
    union all
    select
        day,
        user_id,
        item_id,
        0 as impressions,
        0 as clicks,
        1 as plays,
        (outcome = 'skipped')::integer as skips,
        (outcome = 'completed')::integer as completions,
        played_ms
    from listens
    where ended_at < day + 1
)

select
    day,
    {{ keys | join(', ') }},
    sum(impressions)::bigint as impressions,
    sum(clicks)::bigint as clicks,
    sum(plays)::bigint as plays,
    sum(skips)::bigint as skips,
    sum(completions)::bigint as completions,
    sum(played_ms)::bigint as played_ms
from events
group by day, {{ keys | join(', ') }}
{%- endmacro %}


{# Sum of an integer column over the trailing window. #}
{% macro trailing_sum(column) -%} sum({{ column }})::bigint as {{ column }} {%- endmacro %}


{# Same, decayed by the age of the day; fixed-point integer weights (1e6 = 1), so that the sum is exact. #}
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


{# Counts over all users per day of this run and its trailing window; one row per day. #}
{% macro overall_counts() -%}
select
    day,
    {{ trailing_sum('impressions') }},
    {{ trailing_sum('clicks') }},
    {{ trailing_sum('plays') }},
    {{ trailing_sum('skips') }},
    {{ trailing_sum('completions') }}
from (
    {{ trailing_days(ref('int_day')) }}
)
group by day
{%- endmacro %}
