select
    day,
    source_item_id,
    source_creator_id,
    category,
    duration_s as item_duration_s,
    age_days as item_age_days,
    impressions_7d as item_impressions_7d,
    clicks_7d as item_clicks_7d,
    watch_ms_7d as item_watch_ms_7d,
    likes_7d as item_likes_7d,
    content_embedding
from {{ ref('stg_source_item_profiles') }}
