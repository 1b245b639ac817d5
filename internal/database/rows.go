package database

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v4"
)

// One asks for at most one row. It reports false when there is none.
//
// T is a struct whose fields are filled by column name (the tag `db:"name"`, or
// the field's name in snake case), or a plain value for a single column.
func One[T any](ctx context.Context, q Queryer, sql string, args ...any) (row T, ok bool, err error) {
	// To the end: a row that a statement returns before it fails, or before its
	// commit does, was never written.
	for v, err := range Each[T](ctx, q, sql, args...) {
		if err != nil {
			var none T
			return none, false, err
		}
		if !ok {
			row, ok = v, true
		}
	}
	return row, ok, nil
}

// All asks for every row.
func All[T any](ctx context.Context, q Queryer, sql string, args ...any) ([]T, error) {
	var all []T
	for v, err := range Each[T](ctx, q, sql, args...) {
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Each streams rows. An error ends the stream and comes with its last element;
// leaving the loop early closes the rows.
func Each[T any](ctx context.Context, q Queryer, sql string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		rows, err := q.Query(ctx, sql, args...)
		if err != nil {
			yield(zero, err)
			return
		}
		defer rows.Close()
		var fields [][]int
		for rows.Next() {
			if fields == nil {
				if fields, err = columns[T](rows); err != nil {
					yield(zero, err)
					return
				}
			}
			var v T
			if err := rows.Scan(targets(&v, fields)...); err != nil {
				yield(zero, err)
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(zero, err)
		}
	}
}

// Exec runs a statement and tells how many rows it touched.
func Exec(ctx context.Context, q Queryer, sql string, args ...any) (int64, error) {
	tag, err := q.Exec(ctx, sql, args...)
	return tag.RowsAffected(), err
}

var timeType = reflect.TypeFor[time.Time]()

// columns finds the field of T for each column; a plain T gets an empty list.
func columns[T any](rows pgx.Rows) ([][]int, error) {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Struct || t == timeType {
		return [][]int{}, nil
	}
	byName := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous || !f.IsExported() {
			continue
		}
		name := f.Tag.Get("db")
		if name == "" {
			name = snake(f.Name)
		}
		byName[name] = f.Index
	}
	var fields [][]int
	for _, c := range rows.FieldDescriptions() {
		index, ok := byName[string(c.Name)]
		if !ok {
			return nil, fmt.Errorf("%s has no field for column %q", t, c.Name)
		}
		fields = append(fields, index)
	}
	return fields, nil
}

func targets[T any](v *T, fields [][]int) []any {
	if len(fields) == 0 {
		return []any{v}
	}
	s := reflect.ValueOf(v).Elem()
	ptrs := make([]any, len(fields))
	for i, index := range fields {
		ptrs[i] = s.FieldByIndex(index).Addr().Interface()
	}
	return ptrs
}

// snake turns BatchID into batch_id.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		upper := r >= 'A' && r <= 'Z'
		afterLower := i > 0 && (runes[i-1] < 'A' || runes[i-1] > 'Z')
		beforeLower := i > 0 && i+1 < len(runes) && (runes[i+1] < 'A' || runes[i+1] > 'Z')
		if upper && (afterLower || beforeLower) {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
