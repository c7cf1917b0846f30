select
    day,
    source_user_id,
    segment,
    tenure_days as user_tenure_days,
    impressions_7d as user_impressions_7d,
    clicks_7d as user_clicks_7d,
    watch_ms_7d as user_watch_ms_7d,
    likes_7d as user_likes_7d,
    history_embedding
from {{ ref('stg_source_user_profiles') }}
