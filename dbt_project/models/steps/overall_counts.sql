with days as (
    {{ trailing_days(ref('int_day')) }}
)

select
    day,
    {{ summed('impressions') }},
    {{ summed('clicks') }},
    {{ summed('plays') }},
    {{ summed('skips') }},
    {{ summed('completions') }}
from days
group by day
