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
    {{ summed_counts_of('users') }}
from days
left join users on days.day = users.day
group by days.day
