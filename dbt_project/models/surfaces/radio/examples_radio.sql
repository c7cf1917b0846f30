with inputs as (
    {{ example_inputs('radio') }}
),

listens as (
    {{ first_listens('radio') }}
),

named_outcomes as (
    {{ latest_outcomes('radio', ['engagement']) }}
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
)

select
    inputs.*,
    coalesce(named_outcomes.engagement, labels.engagement) as label_engagement
from inputs
inner join labels on inputs.day = labels.day and inputs.exposure_id = labels.exposure_id
left join named_outcomes on inputs.day = named_outcomes.day and inputs.exposure_id = named_outcomes.exposure_id
