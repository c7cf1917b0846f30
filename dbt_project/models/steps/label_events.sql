-- depends_on: {{ ref('stg_listens') }}
-- Only what some label counts is read: listens are many.
{%- set names = var('label_rules') | map(attribute=3) | list %}
{%- set listens = names | select('in', played_outcomes('listen')) | list %}
{%- set sessions = names | select('in', played_outcomes('session')) | list %}
with outcomes as (
    {{ belonging('stg_outcomes', key=['day', 'exposure_id', 'name', 'ts'], columns=['name', 'value', 'ts']) }}
)
{%- if listens %},

listens as (
    {{
        belonging(
            'stg_listens',
            key=['day', 'listen_id'],
            columns=['ts', 'listen_id', 'played_ms', 'outcome', 'feedback'],
            same_user=true
        )
    }}
)
{%- endif %}
{%- if sessions %},

exposures as (
    select * from {{ ref('stg_exposures') }}
    where {{ built_days(before=longest_label_window(), after=longest_label_window()) }}
),

-- Of an item that a session shows twice, the last showing before a listen has it.
sessions as (
    select
        exposures.day,
        exposures.surface,
        exposures.exposure_id,
        listens.ts,
        listens.listen_id,
        listens.played_ms,
        listens.outcome,
        listens.feedback
    from {{ ref('stg_listens') }} as listens
    asof inner join exposures
        on
            listens.user_id = exposures.user_id
            and listens.session_id = exposures.session_id
            and listens.item_id = exposures.item_id
            and listens.ts >= exposures.ts
    where
        {{ built_days('listens.day', after=longest_label_window()) }}
        and listens.day <= exposures.day + {{ label_window_days('exposures.surface') }}
)
{%- endif %}

select
    day,
    surface,
    exposure_id,
    name,
    value,
    ts
from outcomes
where {{ built_days() }}
{%- for part, used in [('listen', listens), ('session', sessions)] if used %}
union all
select
    day,
    surface,
    exposure_id,
    unnest([{{ in_quotes(played_outcomes(part)) }}]) as name,  -- noqa: RF04
    unnest([
        played_ms / 1000.0::double,
        (outcome = 'completed')::integer::double,
        (outcome = 'skipped')::integer::double,
        (outcome = 'stopped')::integer::double,
        (feedback is not distinct from 'like')::integer::double,
        (feedback is not distinct from 'dislike')::integer::double
    ]) as value,  -- noqa: RF04
    ts
from {{ part }}s
where {{ built_days() }}
{%- endfor %}
