with inputs as (
    select * exclude (surface) from {{ ref('example_inputs') }}
    where surface = '__surface__'
),

listens as (
    select * from {{ ref('first_listens') }}
    where surface = '__surface__' and {{ built_days() }}
),

-- Landed outcomes named like a task take the place of its label.
named_outcomes as (
    select
        day,
        exposure_id,
        max(value) filter (where name = 'ctr') as ctr
    from {{ ref('latest_outcomes') }}
    where surface = '__surface__'
    group by day, exposure_id
)

select
    inputs.*,
    coalesce(named_outcomes.ctr, (listens.exposure_id is not null)::integer::double) as label_ctr
from inputs
left join listens on inputs.day = listens.day and inputs.exposure_id = listens.exposure_id
left join named_outcomes on inputs.day = named_outcomes.day and inputs.exposure_id = named_outcomes.exposure_id
