-- Landing refuses duplicate keys and the key test holds it to that: no second pass over the largest table.
with source as (
    select *
    from {{ source('landing', 'source_impressions') }}
    where {{ built_days() }}
),

{{ hashed('source', ['source_user_id', 'source_item_id', 'page', 'device', 'network']) }}

select
    day,
    {{ id63('impression_id') }} as impression_id,
    impression_id as landed_impression_id,
    source_user_id,
    landed_source_user_id,
    source_item_id,
    landed_source_item_id,
    page,
    device,
    network,
    position,
    autoplay,
    subscribed,
    session_depth,
    session_watch_s,
    hours_since_visit,
    clicked,
    watched_s,
    continued,
    liked,
    ts
from hashed
