with source as (
    {{ landed(source('landing', 'exposures'), ['exposure_id'], ['ts', 'user_id', 'item_id', 'session_id']) }}
),

{{ hashed('source', ['user_id', 'session_id', 'item_id', 'container_id', 'seed_item_id', 'list_id']) }}

select
    day,
    {{ id63('exposure_id') }} as exposure_id,
    exposure_id as landed_exposure_id,
    user_id,
    landed_user_id,
    session_id,
    landed_session_id,
    item_id,
    landed_item_id,
    container_id,
    landed_container_id,
    seed_item_id,
    landed_seed_item_id,
    surface,
    release_id,
    arm,
    list_id,
    landed_list_id,
    propensity,
    random,
    "row",
    "column",
    ts
from hashed
