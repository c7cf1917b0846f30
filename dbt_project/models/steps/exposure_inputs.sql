with exposures as (
    select * from {{ ref('stg_exposures') }}
    where {{ built_days() }}
),

-- A listen of the day before counts for the day too, so its row stands once for each of the two.
listens as (
    select
        {{ from_day() }} + unnest(
            range(greatest(day - {{ from_day() }}, 0), least(day - {{ from_day() }} + 1, {{ to_day() }} - {{ from_day() }}) + 1)
        )::integer as day,
        user_id,
        session_id,
        listen_id,
        ended_at,
        case outcome when 'completed' then 1 when 'skipped' then 2 when 'stopped' then 3 end as outcome
    from {{ ref('stg_listens') }}
    where {{ built_days(before=1) }}
),

-- What a session had heard each time that a listen ended: its last 8 outcomes, newest first.
sessions as (
    select
        day,
        user_id,
        session_id,
        ended_at,
        [
            outcome,
            {% for age in range(1, 8) -%}
            lag(outcome, {{ age }}, 0) over newest{{ ',' if not loop.last }}
            {% endfor -%}
        ]::bigint[] as session_outcomes
    from listens
    window newest as (partition by day, user_id, session_id order by ended_at, listen_id)
    qualify row_number() over (partition by day, user_id, session_id, ended_at order by listen_id desc) = 1
)

select
    exposures.day,
    exposures.exposure_id,
    exposures.ts,
    exposures.surface,
    exposures.user_id,
    exposures.session_id,
    exposures.item_id,
    exposures.container_id,
    exposures.seed_item_id,
    exposures."row",
    exposures."column",
    hour(exposures.ts) as hour,
    coalesce(sessions.session_outcomes, [0, 0, 0, 0, 0, 0, 0, 0]::bigint[]) as session_outcomes
from exposures
-- Strictly before: what ends at the exposure's own timestamp may be its own outcome.
asof left join sessions
    on
        exposures.day = sessions.day
        and exposures.user_id = sessions.user_id
        and exposures.session_id = sessions.session_id
        and exposures.ts > sessions.ended_at
