with impressions as (
    select * from {{ ref('stg_source_impressions') }}
),

users as (
    select * from {{ ref('stg_source_user_profiles') }}
),

items as (
    select * from {{ ref('stg_source_item_profiles') }}
)

select
    ---------- keys
    impressions.day,
    impressions.impression_id,
    impressions.ts,
    ---------- inputs that an app may also have
    impressions.source_user_id,
    impressions.source_item_id,
    {{ source_profile_columns() }},
    hour(impressions.ts) as hour,
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
    ---------- labels
    impressions.clicked::integer::double as label_click,
    case when impressions.clicked then ln(1 + impressions.watched_s) end as label_watch,
    impressions.continued::integer::double as label_continue,
    impressions.liked::integer::double as label_like
from impressions
left join users on impressions.day = users.day and impressions.source_user_id = users.source_user_id
left join items on impressions.day = items.day and impressions.source_item_id = items.source_item_id
