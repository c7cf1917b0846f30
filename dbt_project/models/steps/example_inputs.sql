-- Every model whose meta names an entity is joined; ml.features.tables reads the declarations.
-- noqa: disable=layout
{% set feature_tables = fromjson(env_var('CROSSFADE_FEATURE_TABLES', '[]')) -%}
with exposures as (
    select * from {{ ref('exposure_inputs') }}
)
{%- for table in feature_tables %},

{{ table.name }} as (
    select * from {{ ref(table.name) }} where {{ built_days() }}
)
{%- endfor %}

select
    exposures.*
    {%- for table in feature_tables %}
    {%- for column in table.columns %},
    {{ column.value }} as {{ column.alias }}
    {%- endfor %}
    {%- endfor %}
from exposures
{%- for table in feature_tables %}
left join {{ table.name }} on exposures.day = {{ table.name }}.day and {{ table.same_entity }}
{%- endfor %}
