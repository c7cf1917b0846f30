with source as (
    {{ landed(source('landing', 'outcomes'), ['exposure_id', 'name', 'ts'], ['value']) }}
)

select
    day,
    {{ id63('exposure_id') }} as exposure_id,
    exposure_id as landed_exposure_id,
    name,
    value,
    ts
from source
