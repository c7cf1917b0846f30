{# Profile columns of the sister platform by the names of the teacher's contract; `users` and `items` are in scope. #}
{% macro source_profile_columns() -%}
items.source_creator_id,
items.category,
users.segment,
users.tenure_days as user_tenure_days,
users.impressions_7d as user_impressions_7d,
users.clicks_7d as user_clicks_7d,
users.watch_ms_7d as user_watch_ms_7d,
users.likes_7d as user_likes_7d,
users.history_embedding,
items.duration_s as item_duration_s,
items.age_days as item_age_days,
items.impressions_7d as item_impressions_7d,
items.clicks_7d as item_clicks_7d,
items.watch_ms_7d as item_watch_ms_7d,
items.likes_7d as item_likes_7d,
items.content_embedding
{%- endmacro %}


{#
  The exposures of `surface` as the teacher sees them: inputs of its contract that the app can supply, by name.
  Profiles are those of the linked account and of the same recording; duration, age and content embedding of an item
  that the sister platform lacks are the app's own.
#}
{% macro teacher_inputs(surface) -%}
with exposures as (
    select * from {{ ref('stg_exposures') }} where surface = '{{ surface }}' and {{ built_days() }}
),

accounts as (
    {{ as_of_days(ref('stg_users'), 'user_id', ['source_user_id']) }}
),

catalog as (
    {{ as_of_days(ref('stg_items'), 'item_id', ['source_item_id', 'duration_s', 'released_at', 'content_embedding']) }}
),

users as (
    select * from {{ ref('stg_source_user_profiles') }} where {{ built_days() }}
),

profiles as (
    select * from {{ ref('stg_source_item_profiles') }} where {{ built_days() }}
),

items as (
    select
        catalog.day,
        catalog.item_id,
        catalog.source_item_id,
        profiles.* exclude (day, source_item_id, duration_s, age_days, content_embedding),
        coalesce(profiles.duration_s, catalog.duration_s) as duration_s,
        coalesce(
            profiles.age_days,
            greatest(epoch_ms(catalog.day::timestamp) - epoch_ms(catalog.released_at), 0) / 86400000.0::double
        ) as age_days,
        coalesce(profiles.content_embedding, catalog.content_embedding) as content_embedding
    from catalog
    left join profiles on catalog.day = profiles.day and catalog.source_item_id = profiles.source_item_id
)

select
    exposures.day,
    exposures.exposure_id,
    exposures.ts,
    accounts.source_user_id,
    items.source_item_id,
    {{ source_profile_columns() }},
    hour(exposures.ts) as hour
from exposures
left join accounts on exposures.day = accounts.day and exposures.user_id = accounts.user_id
left join items on exposures.day = items.day and exposures.item_id = items.item_id
left join users on exposures.day = users.day and accounts.source_user_id = users.source_user_id
{%- endmacro %}
