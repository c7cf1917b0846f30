with catalog as (
    {{ as_of_days(ref('stg_items'), 'item_id', ['creator_id']) }}
),

creators as (
    select
        day,
        creator_id,
        count(*) as items
    from catalog
    where creator_id is not null
    group by day, creator_id
),

activity as (
    {{ trailing_days(ref('int_creator_day')) }}
),

overall as (
    {{ overall_counts() }}
),

summed as (
    select
        day,
        creator_id,
        {{ trailing_sum('impressions') }},
        {{ trailing_sum('clicks') }},
        {{ trailing_sum('plays') }},
        {{ trailing_sum('skips') }}
    from activity
    group by day, creator_id
)

select
    day,
    creator_id,
    coalesce(creators.items, 0) as items,
    coalesce(summed.impressions, 0) as impressions,
    coalesce(summed.plays, 0) as plays,
    {{ rate('clicks', 'impressions', var('smoothing_impressions')) }} as ctr,
    {{ rate('skips', 'plays', var('smoothing_plays')) }} as skip_rate
from creators
full join summed using (day, creator_id)
left join overall using (day)
