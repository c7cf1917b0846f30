with catalog as (
    {{ as_of_days(ref('stg_items'), 'item_id', ['creator_id']) }}
),

activity as (
    {{ trailing_days(ref('int_item_day')) }}
),

overall as (
    select * from {{ ref('overall_counts') }}
),

items as (
    select
        day,
        item_id,
        {{ summed('impressions') }},
        {{ summed('clicks') }},
        {{ summed('plays') }},
        {{ summed('skips') }}
    from activity
    group by day, item_id
),

summed as (
    select
        catalog.day,
        catalog.creator_id,
        count(*) as items,
        coalesce(sum(items.impressions), 0)::bigint as impressions,
        coalesce(sum(items.clicks), 0)::bigint as clicks,
        coalesce(sum(items.plays), 0)::bigint as plays,
        coalesce(sum(items.skips), 0)::bigint as skips
    from catalog
    left join items on catalog.day = items.day and catalog.item_id = items.item_id
    where catalog.creator_id is not null
    group by catalog.day, catalog.creator_id
)

select
    summed.day,
    summed.creator_id,
    summed.items,
    summed.impressions,
    summed.plays,
    {{ rate('clicks', 'impressions', var('smoothing_impressions')) }} as ctr,
    {{ rate('skips', 'plays', var('smoothing_plays')) }} as skip_rate
from summed
left join overall on summed.day = overall.day
