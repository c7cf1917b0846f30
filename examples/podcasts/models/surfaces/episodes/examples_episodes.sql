with inputs as (
    select * exclude (surface) from {{ ref('example_inputs') }}
    where surface = 'episodes'
),

-- Seconds of the listens that name the exposure, also those of another session, and of the session's listens of its episode.
labels as (
    select
        day,
        exposure_id,
        max(value) filter (where label = 'named_s') as named_s,
        max(value) filter (where label = 'session_s') as session_s
    from {{ ref('declared_labels') }}
    where surface = 'episodes'
    group by day, exposure_id
)

select
    inputs.*,
    coalesce(
        greatest(labels.named_s, labels.session_s)
        >= {{ label_parameter('episodes', 'finished_share') }} * inputs.item_duration_s,
        false
    )::integer::double as label_finished
from inputs
left join labels on inputs.day = labels.day and inputs.exposure_id = labels.exposure_id
