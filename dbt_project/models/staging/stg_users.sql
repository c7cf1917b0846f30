with source as (
    {{ landed(source('landing', 'users'), ['user_id'], ['signed_up_at', 'source_user_id', 'country', 'age_band']) }}
)

select
    day,
    {{ id63('user_id') }} as user_id,
    user_id as landed_user_id,
    {{ id63('country') }} as country,
    {{ id63('age_band') }} as age_band,
    {{ id63('source_user_id') }} as source_user_id,
    source_user_id as landed_source_user_id,
    signed_up_at
from source
