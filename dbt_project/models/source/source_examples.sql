with impressions as (
    select * from {{ ref('stg_source_impressions') }}
),

users as (
    select * from {{ ref('source_users') }}
),

items as (
    select * from {{ ref('source_items') }}
)

select  -- noqa: ST06, the columns stand in groups
    ---------- keys
    impressions.day,
    impressions.impression_id,
    impressions.ts,
    ---------- inputs that an app may also have
    impressions.source_user_id,
    impressions.source_item_id,
    items.source_creator_id,
    items.category,
    users.segment,
    users.user_tenure_days,
    users.user_impressions_7d,
    users.user_clicks_7d,
    users.user_watch_ms_7d,
    users.user_likes_7d,
    users.history_embedding,
    items.item_duration_s,
    items.item_age_days,
    items.item_impressions_7d,
    items.item_clicks_7d,
    items.item_watch_ms_7d,
    items.item_likes_7d,
    items.content_embedding,
    ---------- inputs that only the sister platform has
    impressions.page,
    impressions.position,
    impressions.device,
    impressions.network,
    impressions.autoplay,
    impressions.subscribed,
    impressions.session_depth,
    impressions.session_watch_s,
    impressions.hours_since_visit,
    hour(impressions.ts) as hour,
    ---------- labels
    impressions.clicked::integer::double as label_click,
    case when impressions.clicked then ln(1 + impressions.watched_s) end as label_watch,
    impressions.continued::integer::double as label_continue,
    impressions.liked::integer::double as label_like
from impressions
left join users on impressions.day = users.day and impressions.source_user_id = users.source_user_id
left join items on impressions.day = items.day and impressions.source_item_id = items.source_item_id
