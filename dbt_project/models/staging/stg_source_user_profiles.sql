with source as (
    {{ landed(source('landing', 'source_user_profiles'), ['source_user_id'], ['segment', 'tenure_days', 'impressions_7d']) }}
)

select
    day,
    {{ id63('source_user_id') }} as source_user_id,
    source_user_id as landed_source_user_id,
    {{ id63('segment') }} as segment,
    tenure_days,
    impressions_7d,
    clicks_7d,
    watch_ms_7d,
    likes_7d,
    history_embedding
from source
