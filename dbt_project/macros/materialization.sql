{# Models say which schema they live in; it is not prefixed with the profile's. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
{{ custom_schema_name if custom_schema_name is not none else target.schema }}
{%- endmacro %}


{#
  Incremental strategy `replace_days`: delete the days of this run, insert the new rows by name, in one transaction.
  Unlike delete+insert, a day that has become empty becomes empty in the table too.
#}
{% macro get_incremental_replace_days_sql(arg_dict) -%}
delete from {{ arg_dict['target_relation'] }} where {{ built_days() }};
insert into {{ arg_dict['target_relation'] }} by name select * from {{ arg_dict['temp_relation'] }}
{%- endmacro %}


{#
  The temporary relation of an incremental model is a view, so that its rows stream into the table instead of being
  held twice. No model reads itself, so the view gives the same rows after the delete.
#}
{% macro duckdb__create_table_as(temporary, relation, compiled_code, language='sql', partitioned_by=none, sorted_by=none) -%}
{%- if model.resource_type == 'model' -%}{{ require_contract(compiled_code, temporary) }}{%- endif -%}
{%- if temporary and language == 'sql' and model.resource_type == 'model' -%}
    create temporary view {{ relation.include(database=false, schema=false) }} as (
        {{ compiled_code }}
    );
{%- else -%}
    {{ dbt.duckdb__create_table_as(temporary, relation, compiled_code, language, partitioned_by, sorted_by) }}
{%- endif -%}
{%- endmacro %}


{# Tests look only at the days of this run, so that their cost does not grow with history. #}
{% macro get_where_subquery(relation) -%}
{%- set where = config.get('where', none) -%}
(select * from {{ relation }} where {{ built_days() }}{% if where %} and ({{ where }}){% endif %}) as dbt_subquery
{%- endmacro %}
