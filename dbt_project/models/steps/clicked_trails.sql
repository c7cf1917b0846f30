-- One row per surface whose YAML has the label parameter trail_max_hours.
with bounds as (
    select unnest(
        [
            {%- for surface, labels in var('labels').items() if 'trail_max_hours' in labels %}
            {%- set window = var('label_window_days').get(surface, 1) %}
            {%- if execute and labels.trail_max_hours > 24 * window %}
            {{- exceptions.raise_compiler_error(
                surface ~ ': trail_max_hours: ' ~ labels.trail_max_hours ~ ' is longer than the label window of '
                ~ 24 * window ~ ' hours; set label_window_days to ' ~ ((labels.trail_max_hours / 24) | round(0, 'ceil') | int)
            ) }}
            {%- endif %}
            row('{{ surface }}', {{ (labels.trail_max_hours * 3600000) | int }}),
            {%- endfor %}
        ]::struct(surface varchar, max_ms bigint)[],
        recursive := true
    )
),

clicks as (
    select * from {{ ref('first_listens') }}
),

listens as (
    select
        bounds.surface,
        bounds.max_ms,
        listens.day,
        listens.ts,
        listens.played_ms,
        last_value(clicks.exposure_id ignore nulls) over so_far as exposure_id,
        last_value(clicks.day ignore nulls) over so_far as exposure_day,
        last_value(clicks.ts ignore nulls) over so_far as clicked_at
    from {{ ref('stg_listens') }} as listens
    cross join bounds
    left join clicks
        on bounds.surface = clicks.surface and listens.day = clicks.listen_day and listens.listen_id = clicks.listen_id
    where {{ built_days('listens.day', before=1, after=longest_label_window()) }}
    window so_far as (
        partition by bounds.surface, listens.user_id, listens.session_id
        order by listens.ts, listens.listen_id
        rows between unbounded preceding and current row
    )
)

select
    exposure_day as day,
    surface,
    exposure_id,
    least(sum(played_ms), max_ms)::bigint as trail_ms
from listens
where
    {{ built_days('exposure_day') }}
    and day <= exposure_day + {{ label_window_days('surface') }}
    and ts < clicked_at + to_milliseconds(max_ms)
group by exposure_day, surface, exposure_id, max_ms
