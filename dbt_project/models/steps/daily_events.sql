-- depends_on: {{ ref('stg_outcomes') }}
{%- set click_outcomes = var('click_outcomes') %}
with exposures as (
    select * from {{ ref('stg_exposures') }}
    where {{ built_days() }}
),

-- A play across midnight is of the day that it began on; how it ended, and what came after midnight, was not known then.
listens as (
    select
        day,
        ts,
        user_id,
        item_id,
        exposure_id,
        case when ended_at < day + 1 then outcome end as outcome,
        case when ended_at < day + 1 then feedback end as feedback,
        case
            when ended_at < day + 1 then played_ms
            else (epoch_us((day + 1)::timestamp) - epoch_us(ts)) // 1000
        end as played_ms
    from {{ ref('stg_listens') }}
    where {{ built_days() }}
),

clicked as (
    select
        day,
        user_id,
        exposure_id
    from listens
    where exposure_id is not null
    {% if click_outcomes -%}
    union
    select
        exposures.day,
        exposures.user_id,
        exposures.exposure_id
    from exposures
    inner join {{ ref('stg_outcomes') }} as outcomes
        on exposures.day = outcomes.day and exposures.exposure_id = outcomes.exposure_id
    where outcomes.name in ({{ in_quotes(click_outcomes) }}) and outcomes.value <> 0
    {%- else -%}
    group by day, user_id, exposure_id
    {%- endif %}
),

shown as (
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
    left join clicked
        on
            exposures.day = clicked.day
            and exposures.user_id = clicked.user_id
            and exposures.exposure_id = clicked.exposure_id
),

played as (
    select
        day,
        user_id,
        item_id,
        0 as impressions,
        0 as clicks,
        1 as plays,
        (outcome is not distinct from 'skipped')::integer as skips,
        (outcome is not distinct from 'completed')::integer as completions,
        played_ms
    from listens
)

select * from shown
union all
select * from played
