{# Label parameter of a surface, from `labels:` of its YAML. #}
{% macro label_parameter(surface, name) -%}
{%- set parameters = var('labels')[surface] or {} -%}
{%- if execute and name not in parameters -%}
    {{ exceptions.raise_compiler_error('surface ' ~ surface ~ ' has no label parameter ' ~ name) }}
{%- endif -%}
{{ parameters[name] }}
{%- endmacro %}


{#
  One row per exposure of `surface` on the days of this run, with every input column that a surface may name:
  the exposure's own, the session so far, and the features of its day (null where unknown). What ends at the exposure's
  own timestamp may be its own outcome, so only what ended before it counts.
#}
{% macro example_inputs(surface) -%}
with exposures as (
    select * from {{ ref('stg_exposures') }} where surface = '{{ surface }}' and {{ built_days() }}
),

sessions as (
    {{ session_states() }}
),

items as (
    select * from {{ ref('feat_item') }} where {{ built_days() }}
),

creators as (
    select * from {{ ref('feat_creator') }} where {{ built_days() }}
),

users as (
    select * from {{ ref('feat_user') }} where {{ built_days() }}
),

affinities as (
    select * from {{ ref('feat_user_creator') }} where {{ built_days() }}
)

select
    exposures.day,
    exposures.exposure_id,
    exposures.ts,
    exposures.user_id,
    exposures.session_id,
    exposures.item_id,
    exposures.container_id,
    exposures.seed_item_id,
    exposures."row",
    exposures."column",
    hour(exposures.ts) as hour,
    coalesce(sessions.session_outcomes, [0, 0, 0, 0, 0, 0, 0, 0]::bigint[]) as session_outcomes,
    items.creator_id,
    items.genre,
    items.content_embedding,
    items.duration_s as item_duration_s,
    items.age_days as item_age_days,
    items.impressions as item_impressions,
    items.ctr as item_ctr,
    items.decayed_ctr as item_decayed_ctr,
    items.plays as item_plays,
    items.skip_rate as item_skip_rate,
    items.completion_rate as item_completion_rate,
    creators.impressions as creator_impressions,
    creators.ctr as creator_ctr,
    creators.plays as creator_plays,
    creators.skip_rate as creator_skip_rate,
    users.country,
    users.age_band,
    users.tenure_days as user_tenure_days,
    users.days_active as user_days_active,
    users.impressions as user_impressions,
    users.ctr as user_ctr,
    users.plays as user_plays,
    users.skip_rate as user_skip_rate,
    users.history_embedding as user_history_embedding,
    coalesce(affinities.plays, 0) as user_creator_plays,
    coalesce(affinities.known, 0) as user_creator_known,
    affinities.recency_days as user_creator_recency_days
from exposures
asof left join sessions
    on exposures.day = sessions.day
    and exposures.user_id = sessions.user_id
    and exposures.session_id = sessions.session_id
    and exposures.ts > sessions.ended_at
left join items on exposures.day = items.day and exposures.item_id = items.item_id
left join creators on exposures.day = creators.day and items.creator_id = creators.creator_id
left join users on exposures.day = users.day and exposures.user_id = users.user_id
left join affinities
    on exposures.day = affinities.day
    and exposures.user_id = affinities.user_id
    and items.creator_id = affinities.creator_id
{%- endmacro %}


{#
  What a session had heard each time that a listen ended: the outcomes of its last 8 ended listens of that day and the
  day before, newest first, 0 where there are fewer; 1 completed, 2 skipped, 3 stopped.
#}
{% macro session_states() -%}
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
from (
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
)
window newest as (partition by day, user_id, session_id order by ended_at, listen_id)
qualify row_number() over (partition by day, user_id, session_id, ended_at order by listen_id desc) = 1
{%- endmacro %}


{#
  First listen of each exposure of `surface` within the exposure's label window: its day and the day after.
  `days_before` and `days_after` widen the days of the exposures.
#}
{% macro first_listens(surface, days_before=0, days_after=0) -%}
select
    exposures.day,
    exposures.exposure_id,
    listens.day as listen_day,
    listens.listen_id,
    listens.ts,
    listens.played_ms,
    listens.outcome
from {{ ref('stg_exposures') }} as exposures
inner join {{ ref('stg_listens') }} as listens
    on exposures.exposure_id = listens.exposure_id
where
    exposures.surface = '{{ surface }}'
    and {{ built_days('exposures.day', before=days_before, after=days_after) }}
    and {{ built_days('listens.day', before=days_before, after=1) }}
    and listens.day between exposures.day and exposures.day + 1
qualify row_number() over (partition by exposures.day, exposures.exposure_id order by listens.ts, listens.listen_id) = 1
{%- endmacro %}


{#
  Clicked exposures of `surface` on the days of this run with their trail: milliseconds played in the session from the
  click's listen until the listen of the session's next clicked exposure of the surface, at most `max_hours`.
  A click is the first listen that carries the exposure's id, on the exposure's day or the day after.
#}
{% macro clicked_trails(surface, max_hours) -%}
{%- if execute and max_hours | float > 24 -%}
    {{ exceptions.raise_compiler_error('trail of ' ~ max_hours ~ ' hours is longer than the label window of one day') }}
{%- endif -%}
{%- set max_ms = (max_hours | float * 3600000) | int -%}
with clicks as (
    {{ first_listens(surface, days_before=1, days_after=1) }}
),

listens as (
    select
        listens.day,
        listens.ts,
        listens.played_ms,
        last_value(clicks.exposure_id ignore nulls) over so_far as exposure_id,
        last_value(clicks.day ignore nulls) over so_far as exposure_day,
        last_value(clicks.ts ignore nulls) over so_far as clicked_at
    from {{ ref('stg_listens') }} as listens
    left join clicks on listens.day = clicks.listen_day and listens.listen_id = clicks.listen_id
    where {{ built_days('listens.day', before=1, after=1) }}
    window so_far as (
        partition by listens.user_id, listens.session_id
        order by listens.ts, listens.listen_id
        rows between unbounded preceding and current row
    )
)

select
    exposure_day as day,
    exposure_id,
    least(sum(played_ms), {{ max_ms }})::bigint as trail_ms
from listens
where
    {{ built_days('exposure_day') }}
    and day <= exposure_day + 1
    and ts < clicked_at + to_milliseconds({{ max_ms }})
group by exposure_day, exposure_id
{%- endmacro %}


{# When each user first played each creator on a day of this run. #}
{% macro first_plays_of_day() -%}
select
    listens.day,
    listens.user_id,
    items.creator_id,
    min(listens.ts) as ts
from {{ ref('stg_listens') }} as listens
inner join {{ ref('feat_item') }} as items on listens.day = items.day and listens.item_id = items.item_id
where {{ built_days('listens.day') }} and {{ built_days('items.day') }}
group by all
{%- endmacro %}


{#
  Landed outcomes named like the tasks of `surface`, one row per exposure and one column per task; the latest within
  the label window counts. They take the place of labels derived from listens.
#}
{% macro latest_outcomes(surface, tasks) -%}
select
    day,
    exposure_id,
    {% for task in tasks -%}
    max(value) filter (where name = '{{ task }}') as {{ task }}{{ ',' if not loop.last }}
    {% endfor -%}
from (
    select
        exposures.day,
        exposures.exposure_id,
        outcomes.name,
        outcomes.value
    from {{ ref('stg_exposures') }} as exposures
    inner join {{ ref('stg_outcomes') }} as outcomes on exposures.exposure_id = outcomes.exposure_id
    where
        exposures.surface = '{{ surface }}'
        and {{ built_days('exposures.day') }}
        and {{ built_days('outcomes.day', after=1) }}
        and outcomes.day between exposures.day and exposures.day + 1
    qualify row_number() over (
        partition by exposures.day, exposures.exposure_id, outcomes.name order by outcomes.ts desc, outcomes.value desc
    ) = 1
)
group by day, exposure_id
{%- endmacro %}
