package smc

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAnswersAreEncodedAsByEncodingJSON fills the result of every operation at random and compares byte for byte.
func TestAnswersAreEncodedAsByEncodingJSON(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, operation := range Operations() {
		t.Run(operation.Name(), func(t *testing.T) {
			for round := range 20 {
				result := operation.NewResult()
				if round > 0 {
					randomValue(t, random, reflect.ValueOf(result).Elem())
				}
				want, err := json.Marshal(result)
				require.NoError(t, err)
				got, err := appendJSON(nil, result)
				require.NoError(t, err)
				require.Equal(t, string(want), string(got))
			}
		})
	}
	want, err := json.Marshal(errorBody{Message: "<\"ü\" & \x00\xff\u2028>"})
	require.NoError(t, err)
	got, err := appendJSON(nil, errorBody{Message: "<\"ü\" & \x00\xff\u2028>"})
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

// randomValue sets a value to one of those that are encoded differently.
func randomValue(t *testing.T, random *rand.Rand, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		texts := []string{"", "plain", `a "quoted" \ text`, "<&>", "中文名称", "\x00\n\x7f", "not \xff UTF-8", "\u2028"}
		v.SetString(texts[random.IntN(len(texts))])
	case reflect.Bool:
		v.SetBool(random.IntN(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(random.IntN(3) - 1))
		if random.IntN(4) == 0 {
			v.SetInt(random.Int64N(1 << 31))
		}
	case reflect.Float64:
		values := []float64{0, 1, 100, 33.25, 1e21, 1e-7, -2, 1 << 53}
		v.SetFloat(values[random.IntN(len(values))])
	case reflect.Slice:
		v.SetZero()
		if n := random.IntN(4); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1))
		}
		for i := range v.Len() {
			randomValue(t, random, v.Index(i))
		}
	case reflect.Pointer:
		if random.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			randomValue(t, random, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			randomValue(t, random, v.Field(i))
		}
	default:
		t.Fatalf("the results have a %s now: fill it here", v.Type())
	}
}
