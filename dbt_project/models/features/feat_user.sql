with accounts as (
    {{ as_of_days(ref('stg_users'), 'user_id', ['country', 'age_band', 'signed_up_at']) }}
),

activity as (
    {{ trailing_days(ref('int_user_day')) }}
),

overall as (
    select * from {{ ref('overall_counts') }}
),

summed as (
    select
        day,
        user_id,
        count(*) as days_active,
        {{ summed('impressions') }},
        {{ summed('clicks') }},
        {{ summed('plays') }},
        {{ summed('skips') }}
    from activity
    group by day, user_id
),

catalog as (
    {{ as_of_days(ref('stg_items'), 'item_id', ['content_embedding']) }}
),

clicked as (
    {{ trailing_days(ref('int_user_item_day')) }}
),

-- Summed as integers, so that the order of the rows does not show in the last bits.
content as (
    select
        day,
        item_id,
        range(len(content_embedding)) as places,
        [round(greatest(least(x, 1000000), -1000000) * 1048576)::bigint for x in content_embedding] as coordinates
    from catalog
    where content_embedding is not null
),

coordinates as (
    select
        clicked.day,
        clicked.user_id,
        clicked.clicks,
        unnest(content.places) as place,
        unnest(content.coordinates) as coordinate
    from clicked
    inner join content on clicked.day = content.day and clicked.item_id = content.item_id
    where clicked.clicks > 0
),

totals as (
    select
        day,
        user_id,
        place,
        sum(coordinate * clicks)::bigint as total,
        sum(clicks)::bigint as clicks
    from coordinates
    group by day, user_id, place
),

history as (
    select
        day,
        user_id,
        list((total / 1048576.0::double / (clicks + {{ var('smoothing_plays') }}))::float order by place) as embedding
    from totals
    group by day, user_id
)

select
    day,
    user_id,
    accounts.country,
    accounts.age_band,
    greatest(day - accounts.signed_up_at::date, 0) as tenure_days,
    coalesce(summed.days_active, 0) as days_active,
    coalesce(summed.impressions, 0) as impressions,
    coalesce(summed.plays, 0) as plays,
    {{ rate('clicks', 'impressions', var('smoothing_impressions')) }} as ctr,
    {{ rate('skips', 'plays', var('smoothing_plays')) }} as skip_rate,
    history.embedding as history_embedding
from accounts
full join summed using (day, user_id)
left join history using (day, user_id)
left join overall using (day)
