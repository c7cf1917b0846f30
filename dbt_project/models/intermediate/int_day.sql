-- depends_on: {{ ref('int_item_day') }}
-- depends_on: {{ ref('int_user_item_day') }}
-- depends_on: {{ ref('stg_items') }}
-- depends_on: {{ ref('stg_users') }}
with days as (
    select unnest(generate_series({{ from_day() }}::timestamp, {{ to_day() }}::timestamp, interval 1 day))::date as day
),

users as (
    select *
    from {{ ref('int_user_day') }}
    where {{ built_days() }}
)

select
    days.day,
    count(users.user_id) as users,
    coalesce(sum(users.impressions), 0)::bigint as impressions,
    coalesce(sum(users.clicks), 0)::bigint as clicks,
    coalesce(sum(users.plays), 0)::bigint as plays,
    coalesce(sum(users.skips), 0)::bigint as skips,
    coalesce(sum(users.completions), 0)::bigint as completions,
    coalesce(sum(users.played_ms), 0)::bigint as played_ms
from days
left join users on days.day = users.day
group by days.day
