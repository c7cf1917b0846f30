with events as (
    select * from {{ ref('daily_events') }}
)

select
    day,
    item_id,
    {{ summed_counts() }}
from events
group by day, item_id
