-- depends_on: {{ ref('int_day') }}
with activity as (
    {{ trailing_days(ref('int_user_creator_day')) }}
),

summed as (
    select
        day,
        user_id,
        creator_id,
        {{ trailing_sum('plays') }},
        max(active_day) as last_active_day
    from activity
    where plays > 0
    group by day, user_id, creator_id
)

select
    day,
    user_id,
    creator_id,
    plays,
    1 as known,
    day - last_active_day as recency_days
from summed
