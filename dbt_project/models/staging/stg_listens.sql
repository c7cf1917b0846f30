with source as (
    {{ landed(source('landing', 'listens'), ['listen_id'], ['ts', 'user_id', 'item_id', 'played_s', 'outcome']) }}
),

hashed as (
    select
        day,
        {{ id63('listen_id') }} as listen_id,
        listen_id as landed_listen_id,
        {{ id63('user_id') }} as user_id,
        user_id as landed_user_id,
        {{ id63('session_id') }} as session_id,
        session_id as landed_session_id,
        {{ id63('item_id') }} as item_id,
        item_id as landed_item_id,
        {{ id63('exposure_id') }} as exposure_id,
        exposure_id as landed_exposure_id,
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
