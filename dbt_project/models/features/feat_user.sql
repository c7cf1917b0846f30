with accounts as (
    {{ as_of_days(ref('stg_users'), 'user_id', ['country', 'age_band', 'signed_up_at']) }}
),

activity as (
    {{ trailing_days(ref('int_user_day')) }}
),

overall as (
    {{ overall_counts() }}
),

summed as (
    select
        day,
        user_id,
        count(*) as days_active,
        {{ trailing_sum('impressions') }},
        {{ trailing_sum('clicks') }},
        {{ trailing_sum('plays') }},
        {{ trailing_sum('skips') }}
    from activity
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
    {{ rate('skips', 'plays', var('smoothing_plays')) }} as skip_rate
from accounts
full join summed using (day, user_id)
left join overall using (day)
