with exposures as (
    select * from {{ ref('stg_exposures') }}
    where {{ built_days() }}
),

links as (
    {{ as_of_days(ref('stg_users'), 'user_id', ['source_user_id', 'landed_source_user_id']) }}
),

withdrawals as (
    select
        user_id,
        max(day) as day
    from {{ ref('stg_users') }}
    where source_user_id is null
    group by user_id
),

-- A link that was withdrawn is none for the days before it either; one that was made again counts from its own day.
accounts as (
    select
        links.day,
        links.user_id,
        links.source_user_id,
        links.landed_source_user_id
    from links
    left join withdrawals on links.user_id = withdrawals.user_id
    where withdrawals.day is null or withdrawals.day <= links.day
),

catalog as (
    {{
        as_of_days(
            ref('stg_items'),
            'item_id',
            ['source_item_id', 'landed_source_item_id', 'duration_s', 'released_at', 'content_embedding']
        )
    }}
),

users as (
    select * from {{ ref('source_users') }}
    where {{ built_days() }}
),

profiles as (
    select * from {{ ref('source_items') }}
    where {{ built_days() }}
),

-- Duration, age and content of an item that the sister platform lacks are the app's own.
items as (
    select
        catalog.day,
        catalog.item_id,
        catalog.source_item_id,
        catalog.landed_source_item_id,
        profiles.source_creator_id,
        profiles.category,
        profiles.item_impressions_7d,
        profiles.item_clicks_7d,
        profiles.item_watch_ms_7d,
        profiles.item_likes_7d,
        coalesce(profiles.item_duration_s, catalog.duration_s) as item_duration_s,
        coalesce(
            profiles.item_age_days,
            greatest(epoch_ms(catalog.day::timestamp) - epoch_ms(catalog.released_at), 0) / 86400000.0::double
        ) as item_age_days,
        coalesce(profiles.content_embedding, catalog.content_embedding) as content_embedding
    from catalog
    left join profiles on catalog.day = profiles.day and catalog.source_item_id = profiles.source_item_id
)

select
    exposures.day,
    exposures.exposure_id,
    exposures.surface,
    exposures.ts,
    exposures.landed_user_id,
    exposures.landed_item_id,
    accounts.source_user_id,
    accounts.landed_source_user_id,
    items.source_item_id,
    items.landed_source_item_id,
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
    hour(exposures.ts) as hour
from exposures
left join accounts on exposures.day = accounts.day and exposures.user_id = accounts.user_id
left join items on exposures.day = items.day and exposures.item_id = items.item_id
left join users on exposures.day = users.day and accounts.source_user_id = users.source_user_id
