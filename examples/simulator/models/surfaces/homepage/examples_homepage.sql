with inputs as (
    select * exclude (surface) from {{ ref('example_inputs') }}
    where surface = 'homepage'
),

clicks as (
    select * from {{ ref('clicked_trails') }}
    where surface = 'homepage'
),

first_plays as (
    select * from {{ ref('first_plays') }}
),

labels as (
    select
        inputs.day,
        inputs.exposure_id,
        (clicks.exposure_id is not null)::integer::double as ctr,
        ln(1 + clicks.trail_ms / 1000.0::double) as trail,
        case
            when clicks.exposure_id is null then 0
            when inputs.creator_id is null then null
            else (
                inputs.user_creator_known = 0
                and (first_plays.ts is null or first_plays.ts >= inputs.ts)
                and ln(1 + clicks.trail_ms / 1000.0::double) > {{ label_parameter('homepage', 'discovery_trail_bound') }}
            )::integer
        end::double as discovery
    from inputs
    left join clicks on inputs.day = clicks.day and inputs.exposure_id = clicks.exposure_id
    left join first_plays
        on inputs.day = first_plays.day and inputs.user_id = first_plays.user_id and inputs.creator_id = first_plays.creator_id
),

-- Landed outcomes named like a task take the place of its label.
named_outcomes as (
    select
        day,
        exposure_id,
        max(value) filter (where name = 'ctr') as ctr,
        max(value) filter (where name = 'trail') as trail,
        max(value) filter (where name = 'discovery') as discovery
    from {{ ref('latest_outcomes') }}
    where surface = 'homepage'
    group by day, exposure_id
)

select
    inputs.*,
    coalesce(named_outcomes.ctr, labels.ctr) as label_ctr,
    coalesce(named_outcomes.trail, labels.trail) as label_trail,
    coalesce(named_outcomes.discovery, labels.discovery) as label_discovery
from inputs
inner join labels on inputs.day = labels.day and inputs.exposure_id = labels.exposure_id
left join named_outcomes on inputs.day = named_outcomes.day and inputs.exposure_id = named_outcomes.exposure_id
