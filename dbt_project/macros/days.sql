{% macro from_day() -%} date '{{ var("from_day") }}' {%- endmacro %}

{% macro to_day() -%} date '{{ var("to_day") }}' {%- endmacro %}


{# Condition: `column` lies in the days of this run, widened by `before` and `after` days. #}
{% macro built_days(column='day', before=0, after=0) -%}
{{ column }} between {{ from_day() }} - {{ before }} and {{ to_day() }} + {{ after }}
{%- endmacro %}


{# Rows of `relation` of the days of this run, one per (day, key): the first by `order_by`, which must be total. #}
{% macro landed(relation, key, order_by) -%}
select *
from {{ relation }}
where {{ built_days() }}
qualify row_number() over (partition by day, {{ key | join(', ') }} order by {{ order_by | join(', ') }}) = 1
{%- endmacro %}


{# One row per day of this run and key: of the rows with day <= that day, the latest. #}
{% macro as_of_days(relation, key, columns) -%}
select
    {{ from_day() }} + unnest(
        range(greatest(day - {{ from_day() }}, 0), least(next_day - {{ from_day() }}, {{ to_day() }} - {{ from_day() }} + 1))
    )::integer as day,
    {{ key }},
    {{ columns | join(', ') }}
from (
    select
        *,
        lead(day, 1, date '9999-12-31') over (partition by {{ key }} order by day) as next_day
    from {{ relation }}
    where day <= {{ to_day() }}
)
where next_day > {{ from_day() }}
{%- endmacro %}


{#
  The rows of a daily `relation` once for each day of this run whose trailing window [day - W, day) holds them.
  `day` is the day that looks back, `active_day` the day of the row.
#}
{% macro trailing_days(relation) -%}
select
    * exclude (day),
    day as active_day,
    {{ from_day() }} + unnest(
        range(
            greatest(day - {{ from_day() }} + 1, 0),
            least(day - {{ from_day() }} + {{ var('feature_window_days') }}, {{ to_day() }} - {{ from_day() }}) + 1
        )
    )::integer as day
from {{ relation }}
where {{ built_days(before=var('feature_window_days'), after=-1) }}
{%- endmacro %}


{# Hook of feature models: every day of [from_day - W, to_day) since first_day must have been built by the base models. #}
{% macro require_history() -%}
{#- Outside of the condition: dbt learns here, while it parses, that the model depends on it. #}
{%- set days = ref('int_day') -%}
{%- if execute and flags.WHICH in ('build', 'run') -%}
    {%- set query -%}
        select strftime(wanted.day, '%Y-%m-%d') as day
        from (
            select unnest(generate_series(
                greatest(date '{{ var("first_day") }}', {{ from_day() }} - {{ var('feature_window_days') }})::timestamp,
                ({{ to_day() }} - 1)::timestamp,
                interval 1 day
            ))::date as day
        ) as wanted
        anti join (
            select day from {{ days }} where {{ built_days(before=var('feature_window_days'), after=-1) }}
        ) as built on wanted.day = built.day
        order by 1
    {%- endset -%}
    {%- set missing = run_query(query).columns[0].values() -%}
    {%- if missing | length > 0 -%}
        {{ exceptions.raise_compiler_error(
            this.identifier ~ ' of [' ~ var('from_day') ~ ', ' ~ var('to_day') ~ '] needs the base tables of '
            ~ missing | join(', ') ~ ', which are not built'
        ) }}
    {%- endif -%}
{%- endif -%}
{%- endmacro %}
