with catalog as (
    {{ as_of_days(ref('stg_items'), 'item_id', ['creator_id', 'genre', 'duration_s', 'content_embedding', 'released_at']) }}
),

activity as (
    {{ trailing_days(ref('int_item_day')) }}
),

overall as (
    select * from {{ ref('overall_counts') }}
),

summed as (
    select
        day,
        item_id,
        {{ summed('impressions') }},
        {{ summed('clicks') }},
        {{ summed('plays') }},
        {{ summed('skips') }},
        {{ summed('completions') }},
        {{ decayed_sum('impressions') }},
        {{ decayed_sum('clicks') }}
    from activity
    group by day, item_id
)

select
    day,
    item_id,
    catalog.creator_id,
    catalog.genre,
    catalog.duration_s,
    greatest(epoch_ms(day::timestamp) - epoch_ms(catalog.released_at), 0) / 86400000.0::double as age_days,
    coalesce(summed.impressions, 0) as impressions,
    coalesce(summed.plays, 0) as plays,
    {{ rate('clicks', 'impressions', var('smoothing_impressions')) }} as ctr,
    {{ decayed_rate('clicks', 'impressions', var('smoothing_impressions')) }} as decayed_ctr,
    {{ rate('skips', 'plays', var('smoothing_plays')) }} as skip_rate,
    {{ rate('completions', 'plays', var('smoothing_plays')) }} as completion_rate,
    catalog.content_embedding
from catalog
full join summed using (day, item_id)
left join overall using (day)
