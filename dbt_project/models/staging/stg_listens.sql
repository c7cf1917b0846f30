with source as (
    {{ landed(source('landing', 'listens'), ['listen_id'], ['ts', 'user_id', 'item_id', 'played_s', 'outcome']) }}
),

hashed as (
    select
        day,
        {{ id63('listen_id') }} as listen_id,
        {{ id63('user_id') }} as user_id,
        {{ id63('session_id') }} as session_id,
        {{ id63('item_id') }} as item_id,
        {{ id63('exposure_id') }} as exposure_id,
        outcome,
        feedback,
        round(played_s * 1000)::bigint as played_ms,
        ts
    from source
)

select
    *,
    ts + to_milliseconds(played_ms) as ended_at
from hashed
