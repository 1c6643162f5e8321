package smc

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Operation is one operation of the API with the types of its request and its result. What a router, a client or
// a reference needs comes from its declaration.
type Operation[Req, Res any] struct {
	name   string
	traits traits
	schema *schema
}

// traits are what an operation is beside its types.
type traits struct {
	extension, reads, once bool
	codes                  []string
}

// option sets a trait.
type option func(*traits)

// extension marks an operation of ours, outside the vendor's API.
func extension(t *traits) { t.extension = true }

// reads marks an operation that changes nothing.
func reads(t *traits) { t.reads = true }

// once marks an operation that makes another thing each time it is sent and takes no client token.
func once(t *traits) { t.once = true }

// answers names the codes an operation may answer with, beside those any may and those its tags name.
func answers(codes ...string) option {
	return func(t *traits) { t.codes = append(t.codes, codes...) }
}

// AnyOperation is an operation whose types are not known at compile time: what a router or the reference uses.
// The only implementation is *Operation.
type AnyOperation interface {
	// Name is the value of the Action parameter.
	Name() string
	// Extension reports whether the operation is ours, outside the vendor's API.
	Extension() bool
	// ReadOnly reports whether the operation changes nothing.
	ReadOnly() bool
	// ErrorCodes lists the codes the operation may answer with beside those any operation may, sorted.
	ErrorCodes() []string
	// Parameters describes the request, in the order of its declaration.
	Parameters() []Parameter
	// NewRequest and NewResult return pointers to empty values of the operation's types.
	NewRequest() any
	NewResult() Result
	// DecodeRequest reads a request from flat parameters. The error is an *Error.
	DecodeRequest(values url.Values) (any, error)
	// EncodeRequest writes a request as flat parameters.
	EncodeRequest(request any) (url.Values, error)
	// ValidateRequest holds a request against the contract, as far as that needs no knowledge of the world.
	// The error is an *Error.
	ValidateRequest(request any, now time.Time) error

	repeatable(values url.Values) bool
}

// Parameter describes a parameter for the reference and for command lines.
type Parameter struct {
	// Name is flat, with N for the index of a list: "DataDisk.N.Part.N.SizeBytes".
	Name string
	// Type is String, Integer, Long, Boolean or Time.
	Type string
	// Required parameters must be given; within a list, in each of its entries.
	Required bool
	// Limits says in words which values are allowed; empty when all are.
	Limits string
	// Default says what absence means; empty when it means nothing but that.
	Default string
}

// registry holds every declared operation; declare is its only writer, at initialisation.
var registry = map[string]AnyOperation{}

// declare declares an operation and registers it. A request type that cannot be a request is a mistake of the
// programmer, found at initialisation.
func declare[Req, Res any](name string, options ...option) *Operation[Req, Res] {
	op := &Operation[Req, Res]{name: name, schema: schemaOf(reflect.TypeFor[Req]())}
	for _, set := range options {
		set(&op.traits)
	}
	for _, code := range op.ErrorCodes() {
		if _, ok := codes[code]; !ok {
			panic(fmt.Sprintf("smc: %s answers with the code %s, which is none", name, code))
		}
	}
	if _, ok := any(new(Res)).(Result); !ok {
		panic(fmt.Sprintf("smc: the result of %s does not embed Answer", name))
	}
	if _, ok := registry[name]; ok {
		panic(fmt.Sprintf("smc: %s is declared twice", name))
	}
	registry[name] = op
	return op
}

// Operations returns every operation, sorted by name.
func Operations() []AnyOperation {
	ops := make([]AnyOperation, 0, len(registry))
	for _, op := range registry {
		ops = append(ops, op)
	}
	slices.SortFunc(ops, func(a, b AnyOperation) int { return strings.Compare(a.Name(), b.Name()) })
	return ops
}

// LookupOperation returns the operation of a name, in exactly that case, or InvalidAction.NotFound.
func LookupOperation(name string) (AnyOperation, error) {
	if name == "" {
		return nil, Errorf("MissingAction", "Action is missing: it names the operation")
	}
	op, ok := registry[name]
	if !ok {
		return nil, Errorf(CodeInvalidActionNotFound, "Action: there is no operation %s", quote(name))
	}
	return op, nil
}

// Name is the value of the Action parameter.
func (o *Operation[Req, Res]) Name() string { return o.name }

// Extension reports whether the operation is ours, outside the vendor's API.
func (o *Operation[Req, Res]) Extension() bool { return o.traits.extension }

// ReadOnly reports whether the operation changes nothing.
func (o *Operation[Req, Res]) ReadOnly() bool { return o.traits.reads }

// repeatable reports whether a request whose outcome is unknown may be sent again: its work would not be done
// twice, by its nature or because it carries a client token.
func (o *Operation[Req, Res]) repeatable(values url.Values) bool {
	return !o.traits.once && (!o.schema.has(clientToken) || values.Get(clientToken) != "")
}

// ErrorCodes lists the codes the operation may answer with beside those any operation may, sorted.
func (o *Operation[Req, Res]) ErrorCodes() []string {
	list := o.schema.codes(slices.Clone(o.traits.codes))
	slices.Sort(list)
	return slices.Compact(list)
}

// Parameters describes the request, in the order of its declaration.
func (o *Operation[Req, Res]) Parameters() []Parameter { return o.schema.describe("", nil) }

// NewRequest returns a pointer to an empty request.
func (o *Operation[Req, Res]) NewRequest() any { return new(Req) }

// NewResult returns a pointer to an empty result.
func (o *Operation[Req, Res]) NewResult() Result { return any(new(Res)).(Result) }

// Decode reads a request from flat parameters. Parameters the operation does not have are passed over, as the
// vendor does (clients add some to every request). The error is an *Error. The request still has to be validated.
func (o *Operation[Req, Res]) Decode(values url.Values) (*Req, error) {
	req := new(Req)
	if err := o.schema.decode(values, reflect.ValueOf(req).Elem()); err != nil {
		return nil, err
	}
	return req, nil
}

// Encode writes a request as flat parameters, without the common ones.
func (o *Operation[Req, Res]) Encode(req *Req) url.Values {
	values := url.Values{}
	if req != nil {
		o.schema.encode("", reflect.ValueOf(req).Elem(), values)
	}
	return values
}

// Validate holds a request against the contract as a self-hosted center rules it, as far as that needs no
// knowledge of the world: sources, quotas and names in use are the handler's. now is the time of the request.
// The error is an *Error that names the parameter, the value given and what is allowed. The client does not call
// it: the endpoint decides.
func (o *Operation[Req, Res]) Validate(req *Req, now time.Time) error {
	if err := o.schema.validate("", reflect.ValueOf(req).Elem()); err != nil {
		return err
	}
	if v, ok := any(req).(validator); ok {
		return v.validate(now)
	}
	return nil
}

// Fingerprint identifies the parameters of a request, its ClientToken aside: those that are given and their values, whichever method,
// order, signature and spelling of numbers and booleans they were sent in (CONTRACT: ClientToken).
func (o *Operation[Req, Res]) Fingerprint(req *Req) string {
	values := o.Encode(req)
	values.Del(clientToken)
	sum := sha256.Sum256([]byte(o.name + "\n" + values.Encode()))
	return hex.EncodeToString(sum[:])
}

// validator is a request with rules between its parameters.
type validator interface{ validate(now time.Time) error }

// DecodeRequest is Decode without types.
func (o *Operation[Req, Res]) DecodeRequest(values url.Values) (any, error) {
	req, err := o.Decode(values)
	if err != nil {
		return nil, err
	}
	return req, nil
}

// EncodeRequest is Encode without types.
func (o *Operation[Req, Res]) EncodeRequest(request any) (url.Values, error) {
	req, ok := request.(*Req)
	if !ok {
		return nil, fmt.Errorf("smc: a request of %s is a %T, not a %T", o.name, req, request)
	}
	return o.Encode(req), nil
}

// ValidateRequest is Validate without types.
func (o *Operation[Req, Res]) ValidateRequest(request any, now time.Time) error {
	req, ok := request.(*Req)
	if !ok || req == nil {
		return fmt.Errorf("smc: a request of %s is a %T, not a %T", o.name, req, request)
	}
	return o.Validate(req, now)
}

const (
	// clientToken is the parameter that makes a request idempotent.
	clientToken = "ClientToken"
	regionID    = "RegionId"
)

var _ AnyOperation = (*Operation[StartReplicationJobRequest, StartReplicationJobResult])(nil)
