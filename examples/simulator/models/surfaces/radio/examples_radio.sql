with inputs as (
    select * exclude (surface) from {{ ref('example_inputs') }}
    where surface = 'radio'
),

listens as (
    select * from {{ ref('first_listens') }}
    where surface = 'radio' and {{ built_days() }}
),

labels as (
    select
        inputs.day,
        inputs.exposure_id,
        coalesce(
            listens.outcome <> 'skipped'
            and listens.played_ms >= 1000 * least({{ label_parameter('radio', 'engaged_min_s') }}, inputs.item_duration_s),
            false
        )::integer::double as engagement
    from inputs
    left join listens on inputs.day = listens.day and inputs.exposure_id = listens.exposure_id
),

-- Landed outcomes named like a task take the place of its label.
named_outcomes as (
    select
        day,
        exposure_id,
        max(value) filter (where name = 'engagement') as engagement
    from {{ ref('latest_outcomes') }}
    where surface = 'radio'
    group by day, exposure_id
)

select
    inputs.*,
    coalesce(named_outcomes.engagement, labels.engagement) as label_engagement
from inputs
inner join labels on inputs.day = labels.day and inputs.exposure_id = labels.exposure_id
left join named_outcomes on inputs.day = named_outcomes.day and inputs.exposure_id = named_outcomes.exposure_id
