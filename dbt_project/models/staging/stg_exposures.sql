with source as (
    {{ landed(source('landing', 'exposures'), ['exposure_id'], ['ts', 'user_id', 'item_id', 'session_id']) }}
),

{{ hashed('source', ['user_id', 'session_id', 'item_id', 'container_id', 'seed_item_id']) }}

select
    day,
    {{ id63('exposure_id') }} as exposure_id,
    user_id,
    session_id,
    item_id,
    container_id,
    seed_item_id,
    surface,
    release_id,
    arm,
    "row",
    "column",
    ts
from hashed
