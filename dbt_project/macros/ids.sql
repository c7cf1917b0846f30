{# int64 of a string id: low 64 bits of its MD5, masked to 63 bits; null stays null. The same as ml.foundation.ids.id63. #}
{% macro id63(column) -%}
(md5_number_lower({{ column }}) & 9223372036854775807::ubigint)::bigint
{%- endmacro %}


{#
  CTE `hashed`: the rows of CTE `relation` with id63 in place of the strings in `columns`, and each string beside it as
  `landed_<column>`. MD5 is what staging a large log costs, so each distinct string is hashed once and looked up.
#}
{% macro hashed(relation, columns) -%}
names as (
    select
        name,
        {{ id63('name') }} as id
    from (
        {% for column in columns -%}
        select distinct {{ column }} as name from {{ relation }}
        {{ 'union' if not loop.last }}
        {% endfor -%}
    )
),

hashed as (
    select
        {{ relation }}.* replace (
            {%- for column in columns %}
            names_of_{{ column }}.id as {{ column }}{{ ',' if not loop.last }}
            {%- endfor %}
        ),
        {%- for column in columns %}
        {{ relation }}.{{ column }} as landed_{{ column }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ relation }}
    {%- for column in columns %}
    left join names as names_of_{{ column }} on {{ relation }}.{{ column }} = names_of_{{ column }}.name
    {%- endfor %}
)
{%- endmacro %}
