with source as (
    {{ landed(source('landing', 'source_item_profiles'), ['source_item_id'], ['source_creator_id', 'age_days', 'impressions_7d']) }}
)

select
    day,
    {{ id63('source_item_id') }} as source_item_id,
    source_item_id as landed_source_item_id,
    {{ id63('source_creator_id') }} as source_creator_id,
    source_creator_id as landed_source_creator_id,
    {{ id63('category') }} as category,
    duration_s,
    age_days,
    impressions_7d,
    clicks_7d,
    watch_ms_7d,
    likes_7d,
    content_embedding
from source
