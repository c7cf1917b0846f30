with days as (
    {{ trailing_days(ref('int_day')) }}
)

select
    day,
    {{ summed_counts() }}
from days
group by day
