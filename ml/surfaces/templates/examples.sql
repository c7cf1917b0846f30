with inputs as (
    {{ example_inputs('__surface__') }}
),

listens as (
    {{ first_listens('__surface__') }}
),

named_outcomes as (
    {{ latest_outcomes('__surface__', ['ctr']) }}
)

select
    inputs.*,
    coalesce(named_outcomes.ctr, (listens.exposure_id is not null)::integer::double) as label_ctr
from inputs
left join listens on inputs.day = listens.day and inputs.exposure_id = listens.exposure_id
left join named_outcomes on inputs.day = named_outcomes.day and inputs.exposure_id = named_outcomes.exposure_id
