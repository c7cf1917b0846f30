with events as (
    select * from {{ ref('daily_events') }}
)

select
    day,
    user_id,
    item_id,
    {{ summed('impressions') }},
    {{ summed('clicks') }},
    {{ summed('plays') }},
    {{ summed('skips') }},
    {{ summed('completions') }},
    {{ summed('played_ms') }}
from events
group by day, user_id, item_id
