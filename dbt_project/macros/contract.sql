{#
  Hold a table to its contract, which ml.features.contracts makes of what is declared, before a row is written: each
  column is there, with a type that its readers take, and that the table, if there is one, keeps. An insert would cast
  in silence: a rate becomes 0 or 1 in a column of counts.
#}
{% macro require_contract(compiled_code, incremental) -%}
{%- set contract = var('contracts').get(model.name) -%}
{%- if contract -%}
    {%- set types, found, held, faults = var('column_types'), {}, {}, [] -%}
    {%- for row in run_query('describe (\n' ~ compiled_code ~ '\n)') -%}
        {%- do found.update({row[0]: row[1]}) -%}
    {%- endfor -%}
    {%- if incremental -%}
        {%- for column in adapter.get_columns_in_relation(this) -%}
            {%- do held.update({column.name: column.dtype}) -%}
        {%- endfor -%}
    {%- endif -%}
    {%- for wanted, columns in contract.items() -%}
        {%- for column in columns -%}
            {%- if column not in found -%}
                {%- do faults.append('no column ' ~ column ~ ', declared as ' ~ wanted) -%}
            {%- elif not modules.re.fullmatch(types[wanted], found[column]) -%}
                {%- do faults.append('column ' ~ column ~ ' is ' ~ found[column] ~ ', declared as ' ~ wanted) -%}
            {%- elif column in held and not modules.re.fullmatch(kept_type(held[column]), found[column]) -%}
                {%- do faults.append('column ' ~ column ~ ' is ' ~ found[column] ~ ', in the table ' ~ held[column]) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- if faults -%}
        {{ exceptions.raise_compiler_error(
            faults | join('; ') ~ '. Cast it in the SQL, or give a column of another meaning another name; '
            ~ '`crossfade columns` lists what is declared'
        ) }}
    {%- endif -%}
{%- endif -%}
{%- endmacro %}


{# The pattern of the types that a column of this one holds without loss: those of the narrowest that takes it. #}
{% macro kept_type(held) -%}
{%- for pattern in var('column_types').values() if modules.re.fullmatch(pattern, held) -%}
    {%- if loop.first -%}{{ pattern }}{%- endif -%}
{%- endfor -%}
{%- endmacro %}
