{#
  A teacher's vectors of `entity` (user_id or item_id) as the rows of a feature table: of each day, the latest that was
  computed in the window [day - W, day). Vectors of two versions do not lie in one space, so that those of the version
  that the day before it has count, and no others. `known` is 1: examples without a row have the table's default.
  Nothing is there while no vector was computed.
#}
{% macro teacher_vectors(entity, embedding) -%}
{#- Outside of the condition: dbt learns here, while it parses, that the model depends on it. #}
{%- set table = source('ml', 'teacher_vectors') -%}
{%- if execute and load_relation(table) is not none -%}
with computed as (
    select
        day,
        {{ entity }},
        vector,
        teacher,
        teacher_version,
        contract_hash
    from {{ table }}
    where
        embedding = '{{ embedding }}'
        and {{ entity }} is not null
        and {{ built_days(before=var('feature_window_days'), after=-1) }}
),

keys as (
    select
        day,
        {{ entity }},
        contract_hash
    from computed
),

offered as (
    {{ trailing_days('keys') }}
),

latest as (
    select
        day,
        active_day,
        {{ entity }}
    from offered
    qualify
        contract_hash = first_value(contract_hash) over (partition by day order by active_day desc)
        and row_number() over (partition by day, {{ entity }} order by active_day desc) = 1
)

select
    latest.day,
    latest.{{ entity }},
    computed.vector,
    1 as known,
    latest.day - latest.active_day as age_days,
    latest.active_day as vector_day,
    computed.teacher,
    computed.teacher_version,
    computed.contract_hash
from latest
inner join computed on latest.active_day = computed.day and latest.{{ entity }} = computed.{{ entity }}
{%- else -%}
select
    null::date as day,
    null::bigint as {{ entity }},
    null::float[] as vector,
    null::integer as known,
    null::bigint as age_days,
    null::date as vector_day,
    null::varchar as teacher,
    null::varchar as teacher_version,
    null::varchar as contract_hash
where false
{%- endif -%}
{%- endmacro %}
