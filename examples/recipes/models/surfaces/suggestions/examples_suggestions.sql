with inputs as (
    select * exclude (surface) from {{ ref('example_inputs') }}
    where surface = 'suggestions'
),

parties as (
    select
        day,
        {{ id63('exposure_id') }} as exposure_id,
        guests
    from {{ source('landing', 'exposures') }}
    where {{ built_days() }}
),

-- Landed outcomes named like a task take the place of its label.
named_outcomes as (
    select
        day,
        exposure_id,
        max(value) filter (where name = 'cooked') as cooked,
        max(value) filter (where name = 'rating') as rating
    from {{ ref('latest_outcomes') }}
    where surface = 'suggestions'
    group by day, exposure_id
)

select
    inputs.*,
    parties.guests,
    named_outcomes.rating as label_rating,
    coalesce(named_outcomes.cooked, 0) as label_cooked
from inputs
left join parties on inputs.day = parties.day and inputs.exposure_id = parties.exposure_id
left join named_outcomes on inputs.day = named_outcomes.day and inputs.exposure_id = named_outcomes.exposure_id
