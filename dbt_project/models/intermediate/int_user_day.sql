with events as (
    select * from {{ ref('daily_events') }}
)

select
    day,
    user_id,
    {{ summed_counts() }}
from events
group by day, user_id
