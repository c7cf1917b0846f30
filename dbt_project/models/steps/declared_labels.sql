{{ require_outcomes(ref('stg_outcomes')) }}
with rules as (
    select unnest(
        [
            {%- for rule in var('label_rules') %}
            row({{ in_quotes(rule) }}),
            {%- endfor %}
        ]::struct(surface varchar, label varchar, counting varchar, name varchar)[],
        recursive := true
    )
),

events as (
    select * from {{ ref('label_events') }}
)

select
    events.day,
    events.surface,
    events.exposure_id,
    rules.label,
    case rules.counting
        when 'any' then max((events.value <> 0)::integer)::double
        when 'sum' then list_sum(list(events.value order by events.ts, events.value))
        when 'latest' then last(events.value order by events.ts, events.value)
        when 'first' then first(events.value order by events.ts, events.value)
    end as value  -- noqa: RF04
from events
inner join rules on events.surface = rules.surface and events.name = rules.name
group by events.day, events.surface, events.exposure_id, rules.label, rules.counting
