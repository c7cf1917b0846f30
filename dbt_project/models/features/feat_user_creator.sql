with catalog as (
    {{ as_of_days(ref('stg_items'), 'item_id', ['creator_id']) }}
),

activity as (
    {{ trailing_days(ref('int_user_item_day')) }}
)

select
    activity.day,
    activity.user_id,
    catalog.creator_id,
    1 as known,
    sum(activity.plays)::bigint as plays,
    activity.day - max(activity.active_day) as recency_days
from activity
inner join catalog on activity.day = catalog.day and activity.item_id = catalog.item_id
where activity.plays > 0 and catalog.creator_id is not null
group by activity.day, activity.user_id, catalog.creator_id
