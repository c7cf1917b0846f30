with exposures as (
    select * from {{ ref('stg_exposures') }}
    where {{ built_days() }}
),

listens as (
    select * from {{ ref('stg_listens') }}
    where {{ built_days() }}
),

clicked as (
    select distinct
        day,
        user_id,
        exposure_id
    from listens
    where exposure_id is not null
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
        (outcome = 'skipped')::integer as skips,
        (outcome = 'completed')::integer as completions,
        played_ms
    from listens
    where ended_at < day + 1
)

select * from shown
union all
select * from played
